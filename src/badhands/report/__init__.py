"""What a run's files say: page, tracker, comparison."""
