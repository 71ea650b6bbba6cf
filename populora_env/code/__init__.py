"""Python that agents wrote: read without being run, and run where it can do no harm."""
