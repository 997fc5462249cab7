"""What compiled loops run on: threads, scratch memory, launches."""
