"""AG-UI clients, and TanStack AI."""
