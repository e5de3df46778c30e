"""Samples and labels: image folders, torchvision's and Foolbox's data sets, a user's own."""
