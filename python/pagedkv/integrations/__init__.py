"""What other libraries call: custom operators of torch, a cache of transformers. Each needs its
library, which the extra of the same name installs."""
