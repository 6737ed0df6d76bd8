"""What a run's files say: sentences with their gate, page, tracker, comparison."""
