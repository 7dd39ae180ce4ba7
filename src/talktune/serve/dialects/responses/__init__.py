"""OpenAI's Responses (https://platform.openai.com/docs/api-reference/responses) as chat completions, and back.

An answer of chat completions is up to three kinds of items here: its reasoning, its message, its function calls. On
the way in, neighbours of these kinds become one answer again, so that a conversation is the same in every dialect.
"""
