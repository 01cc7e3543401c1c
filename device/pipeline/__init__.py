"""The one signal path from packets to the model's input; training and device run these same objects."""
