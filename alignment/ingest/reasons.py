"""The reasons for which records are quarantined or skipped: what each means, and what to do about it."""

from __future__ import annotations

REASONS = {
    "not_utf8": "bytes that are no UTF-8: convert the file, for instance with iconv",
    "too_long": "longer than [ingest] max_line_bytes",
    "csv_columns": "more or fewer cells than the header names: a text with a comma stands without quotes",
    "not_json": "no JSON: a line has to be one JSON object",
    "not_an_object": "JSON, but no object",
    "messages_not_a_list": "no list of messages where the preset looks for them: another preset, or map messages",
    "messages_empty": "a conversation without a turn",
    "message_content_not_text": "a turn whose content is no text: map messages",
    "unknown_role": "a turn of nobody that is known; roles are system, user, assistant and tool: map messages",
    "last_message_not_from_user": "the last turn before the answer is not the user's: map messages",
    "prompt_empty": "the user wrote nothing",
    "response_not_text": "no answer that is a text where the preset looks for one: another preset, or map response",
    "response_empty": "the answer is empty",
    "created_at_not_a_time": "no time, or none that can be read: map created_at, for instance with epoch_text()",
    "created_at_in_the_future": "later than now by more than [ingest] max_clock_skew_hours",
    "id_too_long": "an id or a model's name of more than 256 bytes",
    "edit_too_long": "an edit of more than 16 KiB",
    "too_long_to_mask": "longer than 64 KiB, with what may be personal data in it",
    "erased_subject": "of a person who was erased",
    "another_record": "no call of a model, as the preset knows them: [ingest] records replaces what it takes for one",
    "tool_call": "the model only called a tool, and said nothing to the user",
    "error": "the call failed",
    "filtered": "a filter or guardrail spoke, not the model",
    "placeholder": "the gateway wrote a placeholder for what was said",
    "no_answer": "the model thought, and was cut off before it answered",
    "not_a_chat": "an embedding, picture, transcript or the like",
    "repeated": "an agent's span repeats what a call within it said, or a log record what its span says",
    "part_of_a_call": "read together with the record that ends its call",
    "mixed_template": "marks of another chat template than the model's stand in the prompt: nobody can tell its turns from a user's text",
    "half_a_call": "a question or an answer without the other beside it in the file, or without ids that tell of which call it is",
}
"""Explanations by reason; the last eleven say why a record is no exchange."""
