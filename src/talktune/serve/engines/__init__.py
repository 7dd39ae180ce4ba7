"""The engines behind the server: which one answers, what it is asked, what it sends, and which versions it has.

Open it to see how another inference server is spoken to. An engine is another process, reached over HTTP.
"""
