"""Development tools: what is generated from the code, and releases. No part of the package."""
