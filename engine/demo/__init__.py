"""The embedded default: a small GPT-2 model, its sparse autoencoders, its text and the script that trained them."""
