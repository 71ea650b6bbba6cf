"""The report's section on the inside of adapters: where they differ, and what that is worth."""
