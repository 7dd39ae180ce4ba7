"""What was said, judged, learned and published: durable, and the only thing that processes share."""
