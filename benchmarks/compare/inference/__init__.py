"""What a service runs: batch norm with what follows it, halves, and images, beside the engines that services use."""
