"""Networks whose layers are split over ranks."""
