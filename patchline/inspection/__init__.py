"""What an inspection is. Empty, so that a publisher imports messages without faiss or openvino."""
