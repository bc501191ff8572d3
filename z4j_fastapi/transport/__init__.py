"""How frames travel between this process and the brain."""
