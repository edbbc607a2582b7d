"""The tabs, in the order in which they stand. A new one is a class in a file of its own and a name here."""

from demo.tab import Tab
from demo.tabs.about import About
from demo.tabs.basket import Basket
from demo.tabs.compare import Compare
from demo.tabs.explore import Explore
from demo.tabs.feature import Feature
from demo.tabs.gallery import Gallery
from demo.tabs.search import Search
from demo.tabs.steer import Steer

TABS: tuple[type[Tab], ...] = (Gallery, Explore, Feature, Steer, Compare, Search, Basket, About)
