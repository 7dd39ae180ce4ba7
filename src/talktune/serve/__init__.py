"""The OpenAI-compatible server that forgets nothing; engines are other processes, reached over HTTP."""
