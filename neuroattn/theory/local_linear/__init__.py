"""Local linear attention: a weighted regression at every query."""
