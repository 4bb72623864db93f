"""What masks select: overlap of many masks, and whether one mask selects the sharp parameters.

Enters: masks, packed or by name; a problem for ``profile``. Leaves: MaskOverlap, MaskProfile. ``profile`` is the
question, ``profile_result`` the answer. Never imports surfaces.

Public: mask_overlap, MaskOverlap, mask_profile, MaskProfile.
"""
