"""Does it hold? Frozen claims on fresh images, the gate on shuffled labels, intervals on simulated studies."""
