"""Pictures of mask overlaps and profiles.

Enters: results of ``analyzers.masks``. Leaves: axes. Never imports what computes.

Public: draw_masks, draw_profile, mask_overlaps, mask_profiles.
"""
