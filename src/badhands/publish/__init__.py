"""What leaves this machine when somebody asks for it: probes and studies for the Hugging Face Hub, and back."""
