"""What a report measures of a run; no picture and no page."""
