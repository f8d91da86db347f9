"""The moderation gateway: an OpenAI-compatible server that checks prompts and answers, and logs exchanges for tonight's run."""
