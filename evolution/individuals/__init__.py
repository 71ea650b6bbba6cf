"""Who lives in a population: births, standing, re-evaluation, inheritance, broken ones."""
