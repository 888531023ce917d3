"""From embeddings to honest ranks: index (encode once), rank (count), metrics, twins, baseline."""
