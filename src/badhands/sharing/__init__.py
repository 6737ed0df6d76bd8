"""What leaves this machine when somebody asks for it: probes and studies on the Hugging Face Hub."""
