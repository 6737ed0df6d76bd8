"""What makes the embedded models and their judge; nothing that uses them needs it."""
