"""Problems that are drawn by generators."""
