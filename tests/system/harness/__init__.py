"""Real machines for the scenarios: images, boots, a network, and the runner of the scenarios."""
