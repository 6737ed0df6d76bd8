"""What is on disk: prompts, manifest, images, labels, activations. The only room that knows file layouts."""
