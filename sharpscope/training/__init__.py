"""The training loop on one page, and its settings.

Enters: a network, images, Settings. Leaves: a trained network and its History, epoch by epoch, to whoever passes
``on_epoch``. Never imports the store: the loop knows no file format.

Public: none; ``sharpscope train`` calls it.
"""
