"""Anytime-valid statistics that several stages share."""
