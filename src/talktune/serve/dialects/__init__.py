"""The forms in which clients speak: a request becomes the one inner chat request, an answer the client's own form.

Open it to see what a client may send, or to add a dialect:

1. a file here with two things: a function that makes OpenAI's chat request of the dialect's body, as `chat_of` does in
   `anthropic.py`, and a class with the methods of `form.Form`, which makes the dialect's answer, events and errors;
2. in `serve/app.py` a handler beside `Server.messages`, and its routes in `Server.app`;
3. in `serve/error_answers.py` the paths whose errors have its form, in `serve/keys.py` the header that its clients put
   a key in, in `openapi.py` the description that the fuzz tests read;
4. tests: `tests/serve/dialects/`, a real client in `tests/serve/clients/`.
"""
