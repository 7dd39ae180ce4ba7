"""The pure arithmetic, in reading order: votes, reward, advantage, packing, loss."""
