"""What a run is going to take, before it is begun."""
