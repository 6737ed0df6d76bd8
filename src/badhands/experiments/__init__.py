"""Does knowing help? Tables of costs and effects."""
