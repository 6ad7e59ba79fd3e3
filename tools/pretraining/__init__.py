"""Pretraining of ``vit_mini`` on generated images: the images, their prompts, and the training."""
