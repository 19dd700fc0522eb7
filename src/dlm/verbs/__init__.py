"""What a person can ask for: each verb a straight walk through the rooms."""
