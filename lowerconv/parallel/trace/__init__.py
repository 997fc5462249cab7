"""What all ranks did and when, by one clock."""
