"""What others are told, asked or served: deploy events, labels, the web sidecar."""
