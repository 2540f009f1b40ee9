"""What is fetched from the Hugging Face hub when somebody asked for it: whole, checked, its revision kept."""
