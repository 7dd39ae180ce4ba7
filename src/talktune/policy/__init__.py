"""The language model: load it, render chats to tokens, sample from it, adapt it."""
