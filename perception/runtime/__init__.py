"""Launch file to graph, channels, synchronisation, runners, health, publisher and subscriber."""
