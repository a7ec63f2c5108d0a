"""Recognition over HTTP, in OpenAI's shape, and over WebSocket, for as many models as are given."""
