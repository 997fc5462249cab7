"""Generated machine code: specification in, address out."""
