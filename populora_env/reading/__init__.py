"""What replies say: answers and judgements, from whatever surrounds them."""
