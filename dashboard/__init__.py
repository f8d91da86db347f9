"""The Streamlit dashboard: last night, the gate, the review queue and drift. Run it with `align dashboard`."""
