"""Sparsity x fusion x device, predicted: where does sparsity stop paying, and what does fusion give back?"""
