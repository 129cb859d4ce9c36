"""Fixed samples through training, a trained model beside its base, the divergence between them."""
