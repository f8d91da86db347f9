"""One module per page; Streamlit runs each as a script, so that importing one draws nothing."""
