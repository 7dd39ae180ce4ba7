"""One base model in memory behind vLLM's OpenAI dialect: requests batched while they run, adapters by name."""
