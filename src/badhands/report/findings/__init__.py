"""What a run may say: sentences that carry their numbers, and claims only where the gate (`stats.family`) lets them."""
